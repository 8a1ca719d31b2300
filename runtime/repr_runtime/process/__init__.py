"""The process that all of this lives in: how it ends, is forked, is interrupted."""
