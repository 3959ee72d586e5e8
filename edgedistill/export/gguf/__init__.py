"""GGUF files for llama.cpp: written from a checkpoint, quantized, looked over, and compared with the checkpoint.

checkpoint ─► writer (families, vocabulary) ─► F32/F16/BF16 ─► quantize (imatrix) ─► Q8_0 … Q4_0
                                                    └────────────┴──► lint, parity
"""
