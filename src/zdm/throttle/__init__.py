"""Signals that slow the backfill down, one file each, and the governor that combines them."""
