"""Tuning inside the encoder with a domain's labels, for those who give up sharing one encoder between domains."""
