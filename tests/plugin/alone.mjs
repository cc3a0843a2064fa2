// The plugin in OpenCode's own Bun, without OpenCode: does each thing it is told on a line, and says on a line how it went.

import { createInterface } from "node:readline"

const began = performance.now()
const { default: plugin } = await import("../../src/agenthub_adapters/plugin/agenthub.js")
const hooks = await plugin.server({ client: {}, directory: "/project" })
const started = performance.now() - began

const tasks = {
  start: () => started,

  /** 20,000 changes of a session's state, some three megabytes, and time for them to go out. */
  crowd: async () => {
    for (let n = 0; n < 20_000; n++) {
      const properties = { sessionID: "ses_a", status: { type: n % 2 ? "idle" : "busy" } }
      hooks.event({ event: { type: "session.status", properties } })
      if (n % 100 === 0) await new Promise((resolve) => setTimeout(resolve))
    }
    return "done"
  },

  /** How long the slowest of a thousand calls of the hub's tools is held up; the first ten warm up. */
  calls: () => {
    const times = []
    for (let n = 0; n < 1010; n++) {
      const before = performance.now()
      const call = { tool: "agent-hub_send_message", sessionID: `ses_${n}`, callID: `call_${n}` }
      hooks["tool.execute.before"](call, { args: { content: "hello" } })
      times.push(performance.now() - before)
    }
    return Math.max(
      ...times
        .slice(10)
        .sort((a, b) => a - b)
        .slice(0, -10),
    )
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await tasks[line]()))
}
hooks.dispose()
