"""A static student in a file: its own, which numpy reads, or an ONNX graph with the same tables.

checkpoint ─► write ─► answers of the file's own engine ─► as the student? ─► ladder
"""
