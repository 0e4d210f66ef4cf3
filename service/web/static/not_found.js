// The page for unknown paths.

import { startTheme } from "./theme.js";

startTheme();
