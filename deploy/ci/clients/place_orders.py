"""Sends orders to a shop over HTTP and prints, as JSON, what the log must hold because of them: place_orders.py URL COUNT.

Orders are placed, added to, confirmed and cancelled by a fixed rule; some commands are sent twice under one Idempotency-Key and some are
refused, which must leave no trace. Only the standard library is used: what is expected must not come from the code that reads it.
"""

import http.client
import json
import sys
from urllib.parse import quote, urlsplit


def main(url, count):
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)

    def send(order, command, body, key, want):
        headers = {"Idempotency-Key": f'"{key}"'}
        if body is not None:
            headers["Content-Type"], body = "application/json", json.dumps(body)
        connection.request("POST", f"/v1/orders/{quote(order, safe='')}/{command}", body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != want:
            sys.exit(f"{command} {order}: {answer.status}, want {want}: {text}")

    types = dict.fromkeys(("OrderPlaced", "OrderLineAdded", "OrderConfirmed", "OrderCancelled"), 0)
    placed_units = placed_total = cancelled_units = cancelled_total = 0
    for i in range(count):
        order, customer = f"clients-{i}-ü", f"Käufer № {i % 17}"
        lines = [{"sku": f"sku-{n}-é", "quantity": n + 1, "amount": (i + 1) * 101 * (n + 1)} for n in range(1 + i % 3)]
        if i % 50 == 0:
            lines[0]["amount"] += 1 << 38  # more than a 32-bit reader can hold
        units, total = sum(n["quantity"] for n in lines), sum(n["amount"] for n in lines)
        body = {"customer_id": customer, "currency": "USD", "ordered_at": f"2024-02-{1 + i % 29:02}T08:30:00.123456Z", "lines": lines}
        for _ in range(1 + (i % 4 == 0)):
            send(order, "place", body, f"clients-{i}-place", 200)
        types["OrderPlaced"] += 1
        if i % 2 == 0:
            line = {"sku": "extra", "quantity": 2, "amount": 7 * i}
            send(order, "add-line", line, f"clients-{i}-add", 200)
            types["OrderLineAdded"] += 1
            units, total = units + line["quantity"], total + line["amount"]
        placed_units, placed_total = placed_units + units, placed_total + total
        if i % 3 == 0:
            send(order, "confirm", None, f"clients-{i}-confirm", 200)
            types["OrderConfirmed"] += 1
        if i % 5 == 0:
            send(order, "cancel", {"reason": "not wanted"} if i % 10 == 0 else None, f"clients-{i}-cancel", 200)
            send(order, "add-line", {"sku": "late", "quantity": 1, "amount": 1}, f"clients-{i}-late", 422)
            types["OrderCancelled"] += 1
            cancelled_units, cancelled_total = cancelled_units + units, cancelled_total + total
    print(json.dumps({"types": types, "streams": count, "units": placed_units - cancelled_units, "total": placed_total - cancelled_total}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
