"""Reads harbour gauges, takes out spikes and predicts the next high water."""
