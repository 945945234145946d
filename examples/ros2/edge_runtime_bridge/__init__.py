"""What an edge-runtime decides, as messages of ROS 2."""
