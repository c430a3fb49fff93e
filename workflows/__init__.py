"""Order, time and decisions: what runs when, on Temporal."""
