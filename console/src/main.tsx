import "./app/csp";
import "./styles/tokens.css";
import "./styles/base.css";

import { render } from "preact";
import { Shell } from "./app/shell";

const place = document.getElementById("app");
if (place) {
  place.textContent = "";
  render(<Shell />, place);
}
