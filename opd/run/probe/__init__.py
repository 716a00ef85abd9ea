"""What is measured: estimators side by side, and held-out figures."""
