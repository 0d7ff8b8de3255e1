"""What comes in: interaction tables, a reader per public format, the timeline."""
