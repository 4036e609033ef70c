"""`/port`: the sandbox's own servers, through this one."""
