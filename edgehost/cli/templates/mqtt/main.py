"""Turns `{"celsius": 21.5}` from sensors/<device>/celsius into Fahrenheit."""


def handler(context, event):
    device = event.path.split("/")[1] if event.path.count("/") > 1 else "unknown"
    fahrenheit = event.body["celsius"] * 9 / 5 + 32
    context.logger.debug_with("converted", device=device, fahrenheit=fahrenheit)
    return {"device": device, "fahrenheit": round(fahrenheit, 2)}
