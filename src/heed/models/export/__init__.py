"""Models as GGUF, the file that llama.cpp and the programs around it read: written, and read back by other code.

Names and layout of tensors are written by the official `gguf` package's own map and undone by tables of ours; text is
tokenised from the file by llama.cpp's rules. So a mistake on one side shows on the other.
"""
