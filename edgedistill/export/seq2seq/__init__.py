"""Models that read a text and write another (T5 and BART families) as two ONNX files with a cache, and their parity."""

from edgedistill.export.seq2seq.write import MODEL, to_seq2seq

__all__ = ["MODEL", "to_seq2seq"]
