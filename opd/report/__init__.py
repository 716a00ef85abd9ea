"""From results.json to what people read: advice, figures, one page."""
