"""Scans into tensors that networks learn from, and back onto the scan's own grid."""
