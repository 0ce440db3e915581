"""What a recipe refuses before it trains anything."""
