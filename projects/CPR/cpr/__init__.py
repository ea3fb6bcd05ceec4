"""Object localization under single coarse point supervision: the method.

Nothing is imported here on purpose: `cpr.data` and `cpr.evaluation` have a core that must load
without torch and detectron2. `import cpr.modeling` registers the meta-architectures.
"""
