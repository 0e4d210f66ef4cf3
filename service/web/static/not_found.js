// The page of a path that there is not.

import { startTheme } from "./theme.js";

startTheme();
