// The endpoint of a process, in whatever circumstances: OpenCode must never notice.

import assert from "node:assert/strict"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import http from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, test } from "node:test"

import plugin from "../../src/agenthub_adapters/plugin/agenthub.js"

let home, hub, opened
const SOCKET = `${process.pid}.sock`

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "agenthub-"))
  hub = join(home, "hub")
  mkdirSync(hub)
  opened = []
})

afterEach(() => {
  for (const hooks of opened) hooks.dispose()
  delete globalThis[Symbol.for("agenthub")]
  rmSync(home, { recursive: true })
})

const open = async (directory = "/project", client = {}) => {
  process.env.AGENT_HUB_DIR = hub
  const hooks = await plugin.server({ client, directory })
  opened.push(hooks)
  return hooks
}

const ask = (method, path, body) =>
  new Promise((resolve, reject) => {
    const request = http.request(
      { socketPath: join(hub, "run", SOCKET), method, path, agent: false },
      async (answer) => {
        let text = ""
        for await (const chunk of answer.setEncoding("utf8")) text += chunk
        resolve({ status: answer.statusCode, body: text && JSON.parse(text) })
      },
    )
    request.on("error", reject)
    request.end(body)
  })

const hello = async () => (await ask("GET", "/")).body
const created = (id) => ({
  event: { type: "session.created", properties: { sessionID: id, info: { id, version: "1.2" } } },
})
const afterASecond = (act) => {
  const { now } = Date
  Date.now = () => now() + 1001
  try {
    act()
  } finally {
    Date.now = now
  }
}

describe("a hub that is not there", () => {
  test("is found when it comes", async () => {
    rmSync(hub, { recursive: true })
    const hooks = await open()
    hooks.event(created("ses_a"))
    mkdirSync(hub)
    afterASecond(() => hooks.event(created("ses_b")))
    const { sessions } = await hello()
    assert.deepEqual(
      sessions.map(({ id }) => id),
      ["ses_a", "ses_b"],
    )
  })

  test("or whose directory is spoilt is waited for in silence", async () => {
    writeFileSync(join(hub, "run"), "no directory")
    const hooks = await open()
    hooks.event(created("ses_a"))
    rmSync(join(hub, "run"))
    afterASecond(() => hooks.event({ event: { type: "server.connected", properties: {} } }))
    assert.equal((await hello()).sessions.length, 1)
  })

  test("is found again after somebody has removed its directory", async () => {
    const hooks = await open()
    rmSync(hub, { recursive: true })
    mkdirSync(hub)
    afterASecond(() => hooks.event(created("ses_a")))
    assert.equal((await hello()).sessions.length, 1)
  })

  test("because its path is too long for a socket leaves no trace", async () => {
    hub = join(home, "x".repeat(100))
    mkdirSync(hub)
    const hooks = await open()
    hooks.event(created("ses_a"))
    assert.deepEqual(readdirSync(hub), [])
  })
})

describe("a process", () => {
  test("takes the place of one that was killed and had its id", async () => {
    mkdirSync(join(hub, "run"))
    writeFileSync(join(hub, "run", SOCKET), "")
    await open()
    assert.equal((await hello()).pid, process.pid)
  })

  test("has one endpoint for all its directories, until the last is closed", async () => {
    const one = await open("/one")
    const two = await open("/two")
    one.event(created("ses_a"))
    two.event(created("ses_b"))
    one.dispose()
    assert.deepEqual((await hello()).sessions.length, 2)
    two.dispose()
    assert.ok(!existsSync(join(hub, "run", SOCKET)))
  })

  test("knows its sessions after OpenCode has read its settings again", async () => {
    const hooks = await open()
    hooks.event(created("ses_a"))
    hooks.dispose()
    await open()
    assert.equal((await hello()).sessions.length, 1)
  })

  test("in which the plugin was loaded twice tells of all once", async () => {
    const first = await open()
    const second = await open()
    for (const { "chat.message": prompted } of [first, second]) {
      prompted({ sessionID: "ses_a" }, { message: { id: "msg_1" }, parts: [] })
    }
    const one = globalThis[Symbol.for("agenthub")]
    const told = []
    one.sessions.tell = (event) => told.push(event)
    for (const { event } of [first, second]) {
      event({ event: { type: "session.compacted", properties: { sessionID: "ses_a" } } })
    }
    first.dispose()
    assert.deepEqual(told, ["compacted"])
    assert.equal((await hello()).sessions.length, 1)
  })

  test("without a channel between the halves does without it", async () => {
    const { BroadcastChannel } = globalThis
    delete globalThis.BroadcastChannel
    try {
      const hooks = await open()
      hooks.event(created("ses_a"))
      assert.equal((await hello()).sessions[0].shown, null)
    } finally {
      globalThis.BroadcastChannel = BroadcastChannel
    }
  })

  test("goes on whatever OpenCode may tell", async () => {
    const hooks = await open()
    for (const hook of Object.values(hooks)) {
      hook()
      hook({}, {})
      hook({ event: null }, null)
    }
    for (const type of ["session.created", "session.status", "message.updated", "permission.asked"]) {
      hooks.event({ event: { type, properties: {} } })
    }
  })
})

describe("a request", () => {
  const said = []
  const client = {
    session: {
      promptAsync: async (prompt) => {
        said.push(prompt)
        return {}
      },
    },
  }

  test("for something unknown is answered 501", async () => {
    await open()
    for (const [method, path] of [
      ["GET", "/sessions"],
      ["GET", "/sessions/ses_a/prompt"],
      ["POST", "/"],
      ["DELETE", "/events"],
      ["POST", "/sessions/../prompt"],
    ]) {
      const { status, body } = await ask(method, path)
      assert.deepEqual([status, body], [501, { error: "no such request" }])
    }
  })

  test("that is no JSON object is answered 400, one that is too big 413", async () => {
    await open()
    for (const body of ["", "{", "null", "[]", "7"]) assert.equal((await ask("POST", "/claim", body)).status, 400)
    assert.equal((await ask("POST", "/claim", JSON.stringify({ tool: "x".repeat(1_000_000) }))).status, 413)
  })

  test("to prompt goes to OpenCode as it is", async () => {
    await open("/project", client)
    const body = { agent: "plan", parts: [{ type: "text", text: "grüße 🙂".repeat(20_000) }] }
    assert.equal((await ask("POST", "/sessions/ses_a/prompt", JSON.stringify(body))).status, 204)
    assert.deepEqual(said.at(-1), { path: { id: "ses_a" }, body })
  })

  test("is answered though OpenCode fails", async () => {
    await open("/project", { session: { promptAsync: () => Promise.reject(new Error("no")) } })
    const { status, body } = await ask("POST", "/sessions/ses_a/prompt", "{}")
    assert.deepEqual([status, body], [500, { error: "Error: no" }])
  })
})
