// The official Node SDK as a caller: a question a line on standard input, an answer a line back.

import { createInterface } from "node:readline";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.CALLER_BASE_URL,
  apiKey: "none",
  maxRetries: 0,
  timeout: 20_000,
});
const messages = [{ role: "user", content: "Hi" }];
const tools = [{ type: "function", function: { name: "get_weather", parameters: {} } }];

const responseTools = [{ type: "function", name: "get_weather", parameters: {}, strict: false }];

const functionCalls = (answer) =>
  answer.output
    .filter(({ type }) => type === "function_call")
    .map(({ name, arguments: text }) => [name, JSON.parse(text)]);
const toolCalls = (message) =>
  (message.tool_calls ?? []).map(({ function: f }) => [f.name, JSON.parse(f.arguments)]);

const calls = {
  async unary({ model }, heard) {
    const answer = await client.chat.completions.create({ model, messages });
    heard.pieces.push(answer.choices[0].message.content);
    heard.total_tokens = answer.usage.total_tokens;
  },
  async stream({ model }, heard) {
    const stream_options = { include_usage: true };
    const answer = await client.chat.completions.create({
      model, messages, stream: true, stream_options,
    });
    for await (const chunk of answer) {
      const piece = chunk.choices[0]?.delta.content;
      if (piece) heard.pieces.push(piece);
      heard.total_tokens = chunk.usage?.total_tokens ?? heard.total_tokens;
    }
  },
  async tools({ model }, heard) {
    const answer = await client.chat.completions.create({ model, messages, tools });
    heard.calls = toolCalls(answer.choices[0].message);
  },
  async stream_tools({ model }, heard) {
    const answer = client.chat.completions.stream({ model, messages, tools });
    heard.calls = toolCalls(await answer.finalMessage());
  },
  async completion({ model, prompt }, heard) {
    const answer = await client.completions.create({ model, prompt });
    heard.pieces = answer.choices.map((choice) => choice.text);
    heard.total_tokens = answer.usage.total_tokens;
  },
  async stream_completion({ model, prompt }, heard) {
    const answer = await client.completions.create({ model, prompt, stream: true });
    for await (const chunk of answer) {
      if (chunk.choices[0]?.text) heard.pieces.push(chunk.choices[0].text);
    }
  },
  async response({ model }, heard) {
    const answer = await client.responses.create({ model, input: "Hi", tools: responseTools });
    heard.pieces.push(answer.output_text);
    heard.calls = functionCalls(answer);
    heard.total_tokens = answer.usage.total_tokens;
  },
  async stream_response({ model }, heard) {
    const stream = client.responses.stream({ model, input: "Hi", tools: responseTools });
    stream.on("response.output_text.delta", ({ delta }) => heard.pieces.push(delta));
    const answer = await stream.finalResponse();
    heard.calls = functionCalls(answer);
    heard.total_tokens = answer.usage?.total_tokens ?? null;
    heard.message = answer.error?.message ?? "";
  },
  async parse_response({ model }, heard) {
    const schema = { type: "object", properties: { n: { type: "integer" } } };
    const format = { type: "json_schema", name: "n", schema };
    const answer = await client.responses.parse({ model, input: "n?", text: { format } });
    heard.pieces.push(String(JSON.parse(answer.output_text).n));
  },
  async events({ model }, heard) {
    const answer = await client.responses.create({ model, input: "Hi", stream: true });
    for await (const event of answer) {
      if (event.type === "response.output_text.delta") heard.pieces.push(event.delta);
      if (event.type === "response.failed") heard.message = event.response.error.message;
    }
  },
  async embed({ model, input, encoding_format }, heard) {
    const answer = await client.embeddings.create({ model, input, encoding_format });
    heard.calls = answer.data.map(({ embedding }) => Array.from(embedding));
    heard.total_tokens = answer.usage.total_tokens;
  },
  async models(_, heard) {
    for await (const model of client.models.list()) heard.pieces.push(model.id);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const heard = {
    pieces: [], calls: [], total_tokens: null, status: null, message: "", code: null,
  };
  try {
    await calls[asked.call](asked, heard);
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    Object.assign(heard, {
      status: error.status ?? null, message: error.message, code: error.code ?? null,
    });
  }
  console.log(JSON.stringify(heard));
}
