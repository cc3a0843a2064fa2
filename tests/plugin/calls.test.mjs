// Who calls a tool of the hub's: written into the call, and claimed by the hub.

import assert from "node:assert/strict"
import { mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, test } from "node:test"

import plugin, { Calls, isMessage, isNote, sign } from "../../src/agenthub_adapters/plugin/agenthub.js"

describe("the name of who calls is written", () => {
  const signed = (tool, args) => {
    sign(tool, args, "lucky-tiger")
    return args
  }

  test("over whatever a model made up", () => {
    assert.deepEqual(signed("send_message", { from: "the-boss", content: "hi" }), {
      from: "lucky-tiger",
      content: "hi",
    })
  })

  test("where a tool needs it, though the model left it out", () => {
    assert.deepEqual(signed("send_message", {}), { from: "lucky-tiger" })
    assert.deepEqual(signed("resolve_thread", {}), { from: "lucky-tiger" })
    assert.deepEqual(signed("get_messages", {}), { agent: "lucky-tiger" })
    assert.deepEqual(signed("register_agent", { id: "the-boss" }), { id: "lucky-tiger" })
  })

  test("in any other tool only where it was given", () => {
    assert.deepEqual(signed("create_thing", { agentId: "x", createdBy: "y", other: "z" }), {
      agentId: "lucky-tiger",
      createdBy: "lucky-tiger",
      other: "z",
    })
    assert.deepEqual(signed("list_agents", {}), {})
  })

  test("nowhere in a search, which may be for another's messages", () => {
    assert.deepEqual(signed("search_messages", { agent: "calm-wolf" }), { agent: "calm-wolf" })
  })
})

describe("a call", () => {
  let directory, file, calls
  const call = (id, session, args = {}, tool = "agent-hub_send_message") => {
    calls.sign(tool, id, session, args)
    return args
  }

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "agenthub-"))
    file = join(directory, "session_agents.json")
    writeFileSync(file, JSON.stringify({ ses_a: { agentId: "lucky-tiger" } }))
    calls = new Calls(file)
  })
  afterEach(() => rmSync(directory, { recursive: true }))

  test("is made under the session's agent, or under the session's id", () => {
    assert.equal(call("1", "ses_a").from, "lucky-tiger")
    assert.equal(call("2", "ses_b").from, "ses_b")
  })

  test("is made under the agent that the session has by now", () => {
    call("1", "ses_b")
    writeFileSync(file, JSON.stringify({ ses_b: { agentId: "calm-wolf" } }))
    utimesSync(file, 1, 1)
    assert.equal(call("2", "ses_b").from, "calm-wolf")
    rmSync(file)
    assert.equal(call("3", "ses_b").from, "ses_b")
  })

  test("is made under the session's id where the hub's file cannot be read", () => {
    writeFileSync(file, "{")
    assert.equal(call("1", "ses_a").from, "ses_a")
  })

  test("can be claimed once, by the tool and the name", () => {
    call("1", "ses_a")
    assert.equal(calls.claim("get_messages", "lucky-tiger"), undefined)
    assert.equal(calls.claim("send_message", "calm-wolf"), undefined)
    assert.equal(calls.claim("send_message", "lucky-tiger"), "ses_a")
    assert.equal(calls.claim("send_message", "lucky-tiger"), undefined)
  })

  test("can be claimed as often as it was made", () => {
    call("1", "ses_a")
    call("2", "ses_a")
    assert.equal(calls.claim("send_message", "lucky-tiger"), "ses_a")
    assert.equal(calls.claim("send_message", "lucky-tiger"), "ses_a")
  })

  test("cannot be claimed once it has ended", () => {
    call("1", "ses_a")
    calls.end("1")
    assert.equal(calls.claim("send_message", "lucky-tiger"), undefined)
  })

  test("of another server's tool is left alone", () => {
    assert.deepEqual(call("1", "ses_a", { from: "x" }, "mail_send_message"), { from: "x" })
    assert.equal(calls.claim("send_message", "lucky-tiger"), undefined)
  })

  test("that nobody ends is forgotten after a thousand others", () => {
    for (let n = 0; n <= 1000; n++) call(String(n), n ? "ses_b" : "ses_a")
    assert.equal(calls.claim("send_message", "lucky-tiger"), undefined)
  })
})

test("the hub's own prompts are known by their ids", () => {
  assert.ok(isMessage("msg_0123456789abAgHubAAAAAAAAA") && !isMessage("msg_0123456789abAgTldAAAAAAAAA"))
  assert.ok(isNote("msg_0123456789abAgTldAAAAAAAAA") && !isNote("msg_20e1b1cee001g22ap0ia2jQl0h"))
  assert.ok(!isMessage("msg_20e1b1cee001g22ap0ia2jQl0h"))
})

test("this file is the half beside the server; its copy called window.js is the other", async () => {
  assert.deepEqual(Object.keys(plugin), ["id", "server"])
})
