"""What the library costs, against what Python can do without it. Run by ``shmbridge bench``."""
