"""What runs on the device: the standard library, numpy, tokenizers and one engine. It imports nothing of edgedistill.

python -m runtime predict "switch the light on"
"""
