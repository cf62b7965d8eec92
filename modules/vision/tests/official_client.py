"""The official client, doing once what the module does: message, twin, input, method. Says what it got."""

import asyncio
import json
import sys

from azure.iot.device import Message, MethodResponse
from azure.iot.device.aio import IoTHubModuleClient


async def main():
    client = IoTHubModuleClient.create_from_edge_environment()
    got = asyncio.Queue()
    calls = asyncio.Queue()
    # Handlers run in threads of the client's own.
    loop = asyncio.get_running_loop()
    client.on_message_received = lambda message: loop.call_soon_threadsafe(got.put_nowait, message)
    client.on_method_request_received = lambda call: loop.call_soon_threadsafe(calls.put_nowait, call)
    client.on_twin_desired_properties_patch_received = lambda patch: None
    await client.connect()
    twin = await client.get_twin()
    await client.patch_twin_reported_properties({"greeting": "yes"})
    message = Message("{}")
    message.message_id = sys.argv[1]
    message.content_type = "application/json"
    message.content_encoding = "utf-8"
    message.custom_properties["model"] = "colour"
    await client.send_message_to_output(message, "predictions")
    call = await asyncio.wait_for(calls.get(), 60)
    await client.send_method_response(MethodResponse.create_from_method_request(call, 200, {"answer": "pong"}))
    message = await asyncio.wait_for(got.get(), 60)
    print(json.dumps({
        "greeting": twin["desired"]["greeting"], "input": message.input_name, "data": message.data.decode(),
        "id": message.message_id, "property": message.custom_properties["k y"], "method": call.name,
    }))
    await client.shutdown()


asyncio.run(main())
