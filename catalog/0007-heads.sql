-- Which commits have a child is asked at each commit: without this it takes the square of the length of the log.
CREATE INDEX commit_parent_of ON commit_parent (parent);
