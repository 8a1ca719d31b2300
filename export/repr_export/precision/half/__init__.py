"""fp16 and bf16."""
