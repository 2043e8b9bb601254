"""Tests of `dlm_trl.hub`, against a local server with the parts of the Hub that a push needs."""
