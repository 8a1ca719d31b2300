"""The CUDA driver, behind one small class; two libraries implement it."""
