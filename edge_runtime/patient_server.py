"""What the servers of pages share."""

from __future__ import annotations

import socket
import socketserver
import time
from typing import Any

NO_ROOM_S = 0.25


class PatientServer(socketserver.TCPServer):
    """Waits where the process has no file descriptor left: whoever wants in is announced without end meanwhile."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """As TCPServer's; on its thread. Raises OSError, which TCPServer takes for nobody having come."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(NO_ROOM_S)
            raise
