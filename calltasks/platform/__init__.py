"""OutboundBot: the vendor's words end here.

Imports are absolute, so the standard library's ``platform`` stays what it is to everybody.
"""
