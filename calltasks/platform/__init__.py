"""OutboundBot: the vendor's words end here."""
