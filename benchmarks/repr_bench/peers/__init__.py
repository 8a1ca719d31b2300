"""Who else can do the work of an artifact here, timed in the same rounds."""
