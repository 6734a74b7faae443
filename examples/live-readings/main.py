"""One reading of this machine for each event, whatever the event says. `init_context` notes where the counters stand."""

import socket
import time

import psutil


def init_context(context):
    psutil.cpu_percent()  # the first call has nothing to compare with and gives 0
    context.user_data.before = (time.monotonic(), psutil.net_io_counters())


def handler(context, event):
    now, network = time.monotonic(), psutil.net_io_counters()
    then, network_then = context.user_data.before
    context.user_data.before = (now, network)
    seconds = max(now - then, 0.001)
    reading = {
        "host": socket.gethostname(),
        "time": event.timestamp.isoformat(),
        "cpu_percent": psutil.cpu_percent(),
        "load_1m": round(psutil.getloadavg()[0], 2),
        "memory_percent": psutil.virtual_memory().percent,
        "disk_percent": psutil.disk_usage("/").percent,
        "sent_bytes_per_s": round((network.bytes_sent - network_then.bytes_sent) / seconds),
        "received_bytes_per_s": round((network.bytes_recv - network_then.bytes_recv) / seconds),
    }
    return reading | temperature()


def temperature():
    """The hottest sensor in °C, where the machine has one (virtual machines mostly have none)."""
    found = [sensor.current for group in psutil.sensors_temperatures().values() for sensor in group if sensor.current]
    return {"temperature_c": max(found)} if found else {}
