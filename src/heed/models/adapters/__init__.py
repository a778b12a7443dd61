"""Low-rank adapters: put on, switched, merged into what a layer multiplies by."""
