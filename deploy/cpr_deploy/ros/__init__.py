"""ROS 2 messages, transforms and bags without ROS; `rosbags` is imported where files are."""
