"""Processes that train together: the only importer of torch.distributed."""
