"""Prediction: the video model and the heads that go before and after it."""
