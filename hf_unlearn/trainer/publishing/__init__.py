"""What the trainer writes for readers: results, cards, reports and pushes to the Hub."""
