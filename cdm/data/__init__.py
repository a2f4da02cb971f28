"""Data: sources of labelled images, and the pipeline that feeds them to training in a defined order."""
