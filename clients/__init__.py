"""The outside world, typed: OutboundBot, DashScope, MySQL."""
