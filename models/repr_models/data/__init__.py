"""Images: CIFAR-10, image folders, and the bundled subsets; no torch."""
