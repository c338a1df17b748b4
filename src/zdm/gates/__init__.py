"""The gates, one file each: questions that must be answered yes before a rollout moves into a phase."""
