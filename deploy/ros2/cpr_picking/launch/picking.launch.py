"""ros2 launch cpr_picking picking.launch.py model:=/path/model.onnx [image:=...] [depth:=...]"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "model": (None, "exported localizer, FILE.onnx"),
    "image": ("/camera/color/image_raw", "topic of the colour image"),
    "depth": ("/camera/aligned_depth_to_color/image_raw", "topic of the aligned depth"),
    "camera_info": ("/camera/color/camera_info", "topic of the colour image's camera info"),
    "base_frame": ("base_link", "frame of the picks"),
}


def generate_launch_description() -> LaunchDescription:
    defaults = PathJoinSubstitution([FindPackageShare("cpr_picking"), "config", "picking.yaml"])
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    arguments.append(DeclareLaunchArgument("params", default_value=defaults))
    node = Node(
        package="cpr_picking",
        executable="picking",
        name="picking",
        output="screen",
        parameters=[
            LaunchConfiguration("params"),
            {name: LaunchConfiguration(name) for name in ("model", "base_frame")},
        ],
        remappings=[
            (name, LaunchConfiguration(name)) for name in ("image", "depth", "camera_info")
        ],
    )
    return LaunchDescription([*arguments, node])
