"""What an artifact's files may be at most: far more than real networks need, far less than harm takes."""

MANIFEST_BYTES = 16 * 2**20
"""Of ``manifest.json``. 21,000 labels of 500 characters are 11 MB."""

MANIFEST_VALUES = 500_000
"""Values in it, of which each takes some 200 bytes once it is read. 21,000 labels are as many."""

GRAPH_BYTES = 2**31
"""Of a graph with its weights: protobuf has no longer messages."""

FILE_BYTES = 2**36
"""Of any other file of an artifact."""

NAME_LENGTH = 1000
"""Characters of a name, path or version."""

COUNT = 2**63 - 1
"""Of parameters, multiply-adds, and the size of a dimension."""

BATCH = 2**31 - 1
"""Samples that an engine takes at once."""

IMAGE_PIXELS = 2**25
"""Of a network's input of images: an 8k picture has 33 million. Making one takes some 24 bytes a pixel."""

IMAGE_SIDE = 2**16
"""Pixels of either side of an image once it is resized, and of a crop."""

IMAGE_DEVIATION = (1e-9, 1e9)
"""What the channels of an image may be divided by, so that float32 holds what comes of it."""

GOLDEN_BYTES = 2**32
"""Of the golden samples, unpacked."""

GOLDEN_RATIO = 100
"""How many times its packed size a file of golden samples may have, where it has more than GOLDEN_FREE."""

GOLDEN_FREE = 2**28
"""Bytes that golden samples may always have, however well they pack."""
