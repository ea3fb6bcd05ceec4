"""ROS 2 node around `cpr_deploy`."""
