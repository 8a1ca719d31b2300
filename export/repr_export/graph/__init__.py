"""What every pass and precision shares: values, multiply-adds, the file."""
