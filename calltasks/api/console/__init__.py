"""The console: pages for the people who sell and for those who run campaigns (rule 13)."""
