"""Training in PyTorch: pre-training the encoder, and fusion heads over a frozen one."""
