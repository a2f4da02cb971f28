"""The human experiment of SR3: two-alternative forced choice between a real picture and a method's."""
