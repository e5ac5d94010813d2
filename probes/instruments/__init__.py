"""Instruments that several probes share."""
