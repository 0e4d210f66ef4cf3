"""The gateway as a process: its worker, its connections, the port it listens at, and clients that leave."""
